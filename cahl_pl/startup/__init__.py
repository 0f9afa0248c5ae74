"""What has to be decided before torch and the other libraries are imported."""
