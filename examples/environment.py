"""An episode of the gymnasium environment, played by a rule. The first call compiles for a minute."""

import gymnasium as gym

# The module before the colon is imported by gymnasium, which registers the environments.
env = gym.make("loki_rl.env:LokiRL/OneTask-v1", windows=4, intervals=30, render_mode="ansi")
_, info = env.reset(seed=1)
total, over = 0.0, False
while not over:
    # The most cautious of the actions that are legal now.
    action = max(range(len(info["action_mask"])), key=lambda one: (info["action_mask"][one], one))
    _, reward, terminated, truncated, info = env.step(action)
    total, over = total + float(reward), terminated or truncated
print(env.render())
print(f"saved against the base in this window: J {total / 30:+.4f} per decision")
