"""The command `llmgine`: run the processes, use the gateway, operate the stores."""
