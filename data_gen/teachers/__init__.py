"""Who answers a prompt: a local model or stored completions."""
