"""A small HTTP server of the V2 (Open Inference) protocol, and its load test (extra ``serve``).

A request goes down this list: ``app`` takes it, ``decode`` reads it, ``batching`` computes it with
others as ``plan`` allows, ``encode`` writes the answer. ``server`` starts and stops all of it.
``loadtest`` is a client of any server of the protocol.
"""
