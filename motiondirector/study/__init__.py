"""The study: does the method do what it claims, on motions and appearances that nothing was tuned on?"""
