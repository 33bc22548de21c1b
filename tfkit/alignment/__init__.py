"""Rewards, advantages and distances from a reference: what PPO and GRPO need beyond an objective, without a loop of its own."""
