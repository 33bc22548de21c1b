"""Sampling, rewards, advantages and KL estimates for PPO and GRPO, which train in the usual loop; and preferences from AI feedback."""
