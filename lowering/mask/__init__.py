"""What an attention mask means: `meaning.meaning_of` reads the subgraph that computes it.

Each tensor of the subgraph is a formula over its indices (elements), made node by node (reader)
from words in `constants`, `values`, `along` and `views`. The formula of the mask over query and key
is taken apart into factors that have a name (factors), and where the op of the site knows what they
say, they take the mask's place (proof). Whatever is not understood stays a read of the tensor that
the graph computes there: a meaning never says more than the graph does.
"""

from __future__ import annotations
