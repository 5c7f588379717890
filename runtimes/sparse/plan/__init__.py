"""From the graph to steps on memory that is laid out in advance."""
