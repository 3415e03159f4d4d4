"""critic-r1: the LLaVA-Critic-R1 recipe as a plug-in for verl 0.9."""
