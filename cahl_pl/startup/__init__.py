"""Settings that must be made before torch and the other libraries are imported."""
