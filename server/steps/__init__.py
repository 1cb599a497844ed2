"""The steps of the cycle: plain functions of named artifacts; what they need besides is bound beforehand."""
