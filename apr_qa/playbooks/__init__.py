"""The playbook format: its fields, its faults, and YAML that remembers line numbers."""
