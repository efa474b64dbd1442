"""Bring an adapter's files here: folders, archives, URLs and the Hugging Face hub."""
