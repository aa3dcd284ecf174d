"""Published models: one `.safetensors` file each, with a card beside it. Data only, no code."""
