"""Sampling, rewards, advantages and KL estimates for PPO and GRPO, without a training loop of their own."""
