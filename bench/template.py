"""Templates: Jinja2 in a sandbox, as lm-evaluation-harness sets it up, compiled once.

An undefined variable is an error, never an empty string; the trailing newline of a template is kept.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)


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
