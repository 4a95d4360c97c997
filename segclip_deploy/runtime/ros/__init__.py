"""ROS 2: images as messages, and a node that labels them."""
