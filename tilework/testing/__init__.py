"""What plug-ins and their users test with. Needs pytest and hypothesis."""
