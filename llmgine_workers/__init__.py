"""LLM work as durable jobs: moved by RabbitMQ, remembered by PostgreSQL."""

__version__ = "0.1.0"
