"""Fields and endpoints that vLLM, llama.cpp and SGLang have beyond OpenAI's API, under their names."""
