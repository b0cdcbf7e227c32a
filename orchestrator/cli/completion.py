"""``completion bash|zsh|fish``: what a shell evaluates so that Tab completes our command lines, in both
spellings.

The shells differ in who cuts a line into words, and are alike in that they ask
:mod:`~orchestrator.cli.complete` with the words and the half typed one.
"""

from __future__ import annotations

import shlex
import sys

from orchestrator.installation import PACKAGE

# The line is cut at blanks alone: bash would cut it at = and : too, and replaces only what follows the last
# of these.
_BASH = """\
_orchestrator_answers() {
  local IFS=$' \\t\\n' line="${COMP_LINE:0:COMP_POINT}" words half=""
  read -ra words <<< "$line"
  case "$line" in *[$' \\t']) ;; *) half="${words[-1]}"; unset "words[-1]" ;; esac
  words=("${words[@]:$1}")
  local kept="${half%"${half##*[=:]}"}"
  [[ "$COMP_WORDBREAKS" == *=* ]] || kept=""
  IFS=$'\\n'
  COMPREPLY=($(ASK "${words[@]}" "$half" 2>/dev/null))
  COMPREPLY=("${COMPREPLY[@]#"$kept"}")
  case "${COMPREPLY[0]-}" in *[=.,]) compopt -o nospace ;; esac 2>/dev/null
}
_orchestrator() { _orchestrator_answers 1; }
_orchestrator_before=$(complete -p python 2>/dev/null | sed -n 's/.*-F \\([^ ]*\\).*/\\1/p')
_orchestrator_module() {
  if [[ "${COMP_LINE:0:COMP_POINT}" =~ ^[^\\ ]+\\ +-m\\ +orchestrator\\  ]]; then _orchestrator_answers 3
  elif [ -n "$_orchestrator_before" ] && [ "$_orchestrator_before" != _orchestrator_module ]
  then "$_orchestrator_before" "$@"; fi
}
complete -o default -F _orchestrator orchestrator
complete -o default -F _orchestrator_module python python3
"""
_ZSH = """\
_orchestrator_answers() {
  local -a found
  found=("${(@f)$(ASK "${(@)words[$1,CURRENT-1]}" "${words[CURRENT]}" 2>/dev/null)}")
  found=("${(@)found:#}")
  (( $#found )) || { _files; return }
  compadd -Q -S '' -- "${(@M)found:#*[=.,]}"
  compadd -Q -- "${(@)found:#*[=.,]}"
}
_orchestrator() { _orchestrator_answers 2 }
_orchestrator_module() {
  if [[ "${words[2]}" == -m && "${words[3]}" == orchestrator && CURRENT -gt 3 ]]; then _orchestrator_answers 4
  elif (( $+functions[_python] )); then _python "$@"
  else _files; fi
}
compdef _orchestrator orchestrator
compdef _orchestrator_module python python3
"""
_FISH = """\
function __orchestrator_answers
  set -l words (commandline -opc)
  ASK $words[$argv[1]..-1] (commandline -ct) 2>/dev/null
end
function __orchestrator_is_module
  set -l words (commandline -opc)
  test (count $words) -ge 3; and test "$words[2] $words[3]" = "-m orchestrator"
end
complete -c orchestrator -a '(__orchestrator_answers 2)'
complete -c python -n __orchestrator_is_module -a '(__orchestrator_answers 4)'
complete -c python3 -n __orchestrator_is_module -a '(__orchestrator_answers 4)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
HOW = {
    "bash": 'eval "$(python -m orchestrator completion bash)"',
    "zsh": 'eval "$(python -m orchestrator completion zsh)"',
    "fish": "python -m orchestrator completion fish | source",
}


def script(shell: str) -> str:
    """What ``shell`` evaluates; it asks the interpreter that this one is, wherever the shell may be."""
    python_path = shlex.quote(str(PACKAGE.parent))
    ask = f"env PYTHONPATH={python_path} {shlex.quote(sys.executable)} -m orchestrator.cli.complete"
    return f"# {HOW[shell]}\n{_SCRIPTS[shell].replace('ASK', ask)}"
