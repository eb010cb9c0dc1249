"""Types: what values of a recipe may be, in ranges and in words, and the roles of tensors."""
import math

from jsonargparse.typing import ClosedUnitInterval as Share
from jsonargparse.typing import PositiveInt, restricted_number_type

Positive = restricted_number_type("Positive", float, [(">", 0), ("<", math.inf)])
NotNegative = restricted_number_type("NotNegative", float, [(">=", 0), ("<", math.inf)])
Below1 = restricted_number_type("Below1", float, [(">=", 0), ("<", 1)])
WORDS = {  # a type -> what it takes, for messages
    PositiveInt: "a whole number above 0", Positive: "a number above 0", Share: "a number from 0 to 1",
    NotNegative: "a number of at least 0", Below1: "a number from 0 to below 1", float: "a number",
    int: "a whole number", bool: "true or false", str: "text", type(None): "null"}
ROLES = ("embedding", "position", "attention", "attention_out", "ffn_in", "ffn_out", "readout", "vector")
HIDDEN = ROLES[2:6]  # the matrices of the blocks
