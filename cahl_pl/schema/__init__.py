"""Tool schemas: problems of a call, and the same call with its arguments in their declared types.

Schemas are JSON Schema, draft 2020-12. Two rules differ from the plain standard, because they are about calls
of tools:

* a parameter that `properties` does not list is *undeclared*, unless `additionalProperties` says otherwise;
* a value of another type passes if it can be read as its declared type: `"3"` as an integer, `3` as a
  string, `"true"` as a boolean, a JSON text as an array or object. Gold data of the field are full of such
  values. The contents of arrays and objects are read in the same way, through references too;

and `nullable: true` of OpenAPI 3.0 lets null pass.

Calls are written by models: nothing here raises on any value that JSON can express. Schemas are expected to
have passed `check_tool`, and not to change afterwards.
"""

from cahl_pl.errors import SchemaError
from cahl_pl.schema.calls import Problem, call_key, coerce_call, find_problems
from cahl_pl.schema.canonical import canonical
from cahl_pl.schema.tools import check_tool
from cahl_pl.schema.validator import CACHE_SIZE, CHECK_SECONDS, is_time_up, time_limit

__all__ = [
    "CACHE_SIZE",
    "CHECK_SECONDS",
    "Problem",
    "SchemaError",
    "call_key",
    "canonical",
    "check_tool",
    "coerce_call",
    "find_problems",
    "is_time_up",
    "time_limit",
]
