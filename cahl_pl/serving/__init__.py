"""Trained pair behind OpenAI's chat API: a client's request becomes an episode, whose next call is the reply."""
