"""The documented client, the example kits and the demo: no Django, nothing of the API or of the runners."""
