"""What the configurations of all models have in common."""

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def imagenet_cfg(**own) -> dict:
    """Timm's configuration of a model trained on ImageNet-1k at 224x224, with what is its own."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "fixed_input_size": False,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "classifier": "head.fc",
        **own,
    }


def on_google_drive(file: str) -> dict:
    """Configuration of weights that lie only there: no program can fetch them by address."""
    return {"url": "", "description": f"weights: Google Drive file {file}"}
