"""The run folder: its lock, run.json, metrics, and checkpoints with their files; also the handling of stop signals. Nothing here imports
torch.
"""
