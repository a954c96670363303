"""Measurements that print ratios. They assert nothing: machines are noisy, people read."""
