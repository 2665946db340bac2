"""Triton mirrors of the native kernels: any GPU that Triton supports, no compiler at install."""
