"""placeholder"""
class Simulate: pass
