"""Templates and expressions: Jinja2 in a sandbox, as lm-evaluation-harness sets it up, compiled once.

An undefined variable is an error, never an empty string; the trailing newline of a template is kept. Besides Jinja's
own filters there is `regex_replace(pattern, replacement)`, as in lm-evaluation-harness.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    made = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    made.filters["regex_replace"] = _regex_replace
    return made


def _regex_replace(text: str, pattern: str, replacement: str = "", count: int = 0) -> str:
    return re.sub(pattern, replacement, text, count=count)


@functools.cache
def compile_template(source: str) -> Template:
    """Compile a template; `template_variables` has checked its syntax before."""
    return _environment().from_string(source)


@functools.cache
def template_variables(source: str) -> frozenset[str]:
    """Return the names a template takes from outside.

    Raises:
        ValueError: the template's syntax is wrong, a filter or test is unknown.
    """
    from jinja2 import TemplateError
    from jinja2.meta import find_undeclared_variables

    try:
        _environment().from_string(source)  # finds unknown filters, which parsing alone does not
        return frozenset(find_undeclared_variables(_environment().parse(source)))
    except TemplateError as problem:
        raise ValueError(f"not a valid template: {problem.message}") from None


@functools.cache
def compile_expression(source: str) -> Callable[..., Any]:
    """Compile an expression, which gives a value of any type; `expression_variables` has checked its syntax before."""
    from jinja2 import Undefined

    expression = _environment().compile_expression(source, undefined_to_none=False)

    def evaluate(**variables: Any) -> Any:
        value = expression(**variables)
        if isinstance(value, Undefined):
            str(value)  # a strict one says what it is that does not exist
        return value

    return evaluate


@functools.cache
def expression_variables(source: str) -> frozenset[str]:
    """Return the names an expression takes from outside.

    Raises:
        ValueError: its syntax is wrong, a filter or test is unknown.
    """
    from jinja2 import TemplateError

    try:
        compile_expression(source)
    except TemplateError as problem:
        raise ValueError(f"not a valid expression: {problem.message}") from None
    return template_variables("{{ (" + source + ") }}")
