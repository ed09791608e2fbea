# The motion predictor on SportsMOT, laid out as published: {train,val}/SEQUENCE/gt/gt.txt.
_base_ = "../../_base_/motion.py"

data_root = "data/sportsmot"
