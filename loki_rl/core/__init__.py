"""Every decision: actors that are told events and answer with effects, and the words they share. A request goes from
gateway.py to router.py and worker.py; controller.py moves servers from plan to plan. No clock, socket or chance here."""
