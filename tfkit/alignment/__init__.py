"""Sampling, rewards, advantages and KL estimates for PPO and GRPO, without a loop of their own."""
