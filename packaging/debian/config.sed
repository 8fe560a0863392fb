# What the Debian package's configuration says outright: the seal, and the policies that it brings along.
s|^# \(seal = "required"\)$|\1|
s|^# policy_dir = .*|policy_dir = "/usr/share/governed-mcpd/policies"|
