# The motion predictor on MOT17 (FRCNN copies of the sequences), validated on its first frames.
_base_ = "../../_base_/motion.py"

data_root = "data/mot17"
train_dataloader = dict(dataset=dict(files=["train/*-FRCNN/gt/gt.txt"]))
val_dataloader = dict(dataset=dict(files=["train/*-FRCNN/gt/gt.txt"], frames=(1, 100)))
test_dataloader = val_dataloader
