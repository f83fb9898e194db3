"""Whether this machine is fit for sweeps: what is wrong, or may go wrong, and what to do about it.

Every check is a function that gives findings and leaves the machine as it found it; only `--build-ops` builds
something. Nothing heavy is imported here: what needs torch or Ray is asked in a child process with a time limit, so
that a library that crashes or hangs is a finding.
"""
