package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// fromConfig marks flags whose value came from the environment or a file.
const fromConfig = "fleetca-from-config"

// applyConfig fills the flags that were not given from the environment
// (FLEETCA_NAME) and from the file of --config.
func applyConfig(cmd *cobra.Command, _ []string) error {
	v, err := readConfig(cmd)
	if err != nil {
		return err
	}
	var firstErr error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || !configurable(f) || !v.IsSet(f.Name) || firstErr != nil {
			return
		}
		if err := cmd.Flags().Set(f.Name, configured(v, f)); err != nil {
			firstErr = usageError(fmt.Errorf("%s: %w", f.Name, err), "it came from FLEETCA_"+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))+" or the file of --config")
		}
		f.Annotations = map[string][]string{fromConfig: {"true"}}
	})
	return firstErr
}

// configurable reports whether a flag has a key in the configuration: csv is that
// of listings, not of commands that read a CSV file.
func configurable(f *pflag.Flag) bool {
	return f.Name != "config" && f.Name != "help" && (f.Name != "csv" || f.Value.Type() == "bool")
}

// configured returns a flag's value in the configuration.
func configured(v *viper.Viper, f *pflag.Flag) string {
	if list := v.GetStringSlice(f.Name); len(list) > 1 && strings.Contains(f.Value.Type(), "Slice") {
		return strings.Join(list, ",")
	}
	return v.GetString(f.Name)
}

// changedConfig returns the flags whose value in the configuration is another
// than the one in force, and not overridden by the command line.
func changedConfig(cmd *cobra.Command) (map[string]string, error) {
	v, err := readConfig(cmd)
	if err != nil {
		return nil, err
	}
	changed := map[string]string{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		_, from := f.Annotations[fromConfig]
		if f.Changed && !from || !configurable(f) {
			return
		}
		value := f.DefValue
		if v.IsSet(f.Name) {
			value = configured(v, f)
		}
		if value != f.Value.String() {
			changed[f.Name] = value
		}
	})
	return changed, nil
}

// readConfig reads the environment and the file of --config. A key of the file
// that is no flag of any command is an error.
func readConfig(cmd *cobra.Command) (*viper.Viper, error) {
	v := viper.New()
	v.SetEnvPrefix("FLEETCA")
	v.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	v.AutomaticEnv()
	file, err := cmd.Flags().GetString("config")
	if err != nil {
		return nil, err
	}
	if file == "" {
		file = os.Getenv("FLEETCA_CONFIG")
	}
	if file != "" {
		v.SetConfigFile(file)
		v.SetConfigType("yaml")
		if err := v.ReadInConfig(); err != nil {
			return nil, usageError(fmt.Errorf("read configuration: %w", err), "--config names a YAML file with flags as keys")
		}
		if err := checkKeys(cmd.Root(), file, v.AllKeys()); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// checkKeys refuses keys that are no flag of any command.
func checkKeys(root *cobra.Command, file string, keys []string) error {
	known := map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	slices.Sort(keys)
	for _, key := range keys {
		if !known[key] {
			return usageError(fmt.Errorf("%s: unknown key %q", file, key), "keys are the names of flags, such as people-addr")
		}
	}
	return nil
}
