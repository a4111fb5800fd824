"""What an attention mask means: `meaning.meaning_of` reads the subgraph that computes it.

Each tensor of the subgraph is a formula over its indices (elements), made node by node (reader,
with the words in `views` and `values`); the formula of the mask over query and key is then taken
apart into factors that have a name (factors). Whatever is not understood stays a read of the tensor
that the graph computes there, so a meaning never says more than the graph does.
"""

from __future__ import annotations
