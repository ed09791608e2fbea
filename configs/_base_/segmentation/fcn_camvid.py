# CamVid with HRNet's head (arXiv 1908.07919): all maps at the first one's resolution, concatenated,
# a 1x1 convolution and the classifier.
_base_ = "upernet_camvid.py"
model = dict(
    decode_head=dict(
        _delete_=True,
        type="FCNHead",
        in_index=(0, 1, 2, 3),
        channels=128,
        input_transform="resize_concat",
        kernel_size=1,
        num_convs=1,
        concat_input=False,
        num_classes=11,
        norm_cfg=dict(type="BN"),
    ),
    auxiliary_head=None,
)
