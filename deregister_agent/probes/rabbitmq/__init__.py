"""The ``rabbitmq`` probe: what an app has in hand of RabbitMQ's messages."""

from deregister_agent.probes.rabbitmq.probe import Options, RabbitMQProbe, build, warnings

__all__ = ["Options", "RabbitMQProbe", "build", "warnings"]
