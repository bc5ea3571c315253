"""Clearcut's image library: images and prompts in, images and masks out. It knows neither Ray nor HTTP."""
