"""The OpenAI protocol from both sides: our server, and a client for anybody's."""
