package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/fleetca/fleetca/ca"
)

// maxProfileFile bounds the file of a profile, in octets.
const maxProfileFile = 64 << 10

// readProfile reads a profile from a file, YAML or JSON; "-" is standard input.
func readProfile(cmd *cobra.Command, path string) (ca.ProfileForm, error) {
	const hint = "fleetca profile show NAME --yaml prints one to begin with; texts with {{ }} stand in quotes"
	var form ca.ProfileForm
	text, err := readProfileFile(cmd, path)
	if err != nil {
		return form, usageError(err, hint)
	}
	var fields map[string]any
	if err := yaml.Unmarshal(text, &fields); err != nil {
		return form, usageError(fmt.Errorf("%s: %w", path, err), hint)
	}
	asJSON, err := json.Marshal(fields)
	if err != nil {
		return form, usageError(fmt.Errorf("%s: %w", path, err), hint)
	}
	dec := json.NewDecoder(bytes.NewReader(asJSON))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&form); err != nil {
		return form, usageError(fmt.Errorf("%s: %w", path, err), hint)
	}
	if form.Name == "" {
		return form, usageError(fmt.Errorf("%s: name is missing", path), hint)
	}
	return form, nil
}

func readProfileFile(cmd *cobra.Command, path string) ([]byte, error) {
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxProfileFile+1))
	if err == nil && len(text) > maxProfileFile {
		return nil, errors.New("the file is longer than a profile can be")
	}
	return text, err
}

// profileYAML writes a profile as a file to edit, its fields in their order.
func profileYAML(form ca.ProfileForm) ([]byte, error) {
	form.Fixed = false
	asJSON, err := json.Marshal(form)
	if err != nil {
		return nil, err
	}
	var node yaml.Node // every JSON is YAML
	if err := yaml.Unmarshal(asJSON, &node); err != nil {
		return nil, err
	}
	var block func(*yaml.Node)
	block = func(n *yaml.Node) {
		n.Style = 0
		for _, below := range n.Content {
			block(below)
		}
	}
	block(&node)
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	err = errors.Join(enc.Encode(&node), enc.Close())
	return out.Bytes(), err
}
