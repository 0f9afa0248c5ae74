"""A trained pair behind OpenAI's chat API: what a client sends becomes an episode, and the episode's next call its reply."""
