"""The commands other than training, planning and inference."""
