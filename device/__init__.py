"""The device: answers on the endpoint itself, and lets out only what `device.egress` has built."""
