"""Scenes with exact labels, composed of cut-outs and photographs."""
