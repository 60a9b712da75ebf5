"""What happened: frozen facts, handed directly to handlers that can harm no job."""
