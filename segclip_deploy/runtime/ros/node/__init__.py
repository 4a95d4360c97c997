"""The ROS 2 node: a source and a sink of topics, around the same ``Run`` as any other."""
