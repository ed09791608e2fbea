"""What configs build: backbones, necks, heads, whole models and trackers."""
