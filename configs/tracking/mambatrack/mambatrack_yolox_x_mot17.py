_base_ = "../../_base_/tracking/mambatrack_yolox_x.py"
