"""Components that `supervm plugins new` starts a project with. Each passes the suite of its role as it is.

They are ordinary code, so that they are checked like everything else; the scaffold writes them under
another name.
"""
