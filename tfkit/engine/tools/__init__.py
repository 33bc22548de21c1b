"""The commands other than training, planning and inference, such as verify, push and launch."""
