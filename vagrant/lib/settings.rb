# What the multi-VM lab consists of: read from cluster.yaml and the environment, checked, and turned into machines.
# It needs Ruby's own library alone, so that it runs inside Vagrant everywhere, and by itself:
#   ruby vagrant/lib/settings.rb [FILE]        checks the settings and prints the machines
require "digest"
require "ipaddr"
require "openssl"
require "securerandom"
require "socket"
require "yaml"

module Raftsman
  # Settings that cannot be; the text names the setting, what is wrong and what would do.
  class SettingsError < StandardError; end

  Machine = Struct.new(:name, :address, :role)

  class Settings
    DEFAULTS = {
      "nodes" => 3, "control_planes" => 1, "memory_mb" => 2048, "cpus" => 2, "provider" => "", "box" => "debian/bookworm64",
      "network" => "192.168.56.0/24", "first_address" => 11, "load_balancer_pool" => "192.168.56.192/27",
      "pod_cidr" => "10.244.0.0/16", "service_cidr" => "10.96.0.0/16", "timers" => "kubernetes",
    }.freeze
    NUMBERS = { "nodes" => 1..50, "control_planes" => 1..3, "memory_mb" => 768..1_048_576, "cpus" => 1..256,
                "first_address" => 2..250 }.freeze
    PROVIDERS = ["", "virtualbox", "libvirt"].freeze
    TIMERS = %w[kubernetes lab emulation].freeze
    # VirtualBox refuses host-only networks elsewhere unless /etc/vbox/networks.conf allows them.
    VIRTUALBOX_RANGE = IPAddr.new("192.168.56.0/21")
    # vagrant-libvirt's own network, by which it reaches the machines.
    LIBVIRT_RANGE = IPAddr.new("192.168.121.0/24")

    DEFAULTS.each_key { |name| define_method(name) { @values[name] } }

    # Reads FILE, where there is one, then RAFTSMAN_NODES, RAFTSMAN_MEMORY_MB and so on.
    def self.load(file, environment)
      values = File.exist?(file) ? read(file) : {}
      DEFAULTS.each_key do |name|
        text = environment["RAFTSMAN_#{name.upcase}"]
        values[name] = text unless text.nil? || text.empty?
      end
      new(values, environment["RAFTSMAN_SECRETS_DIR"] || File.join(File.dirname(__dir__), ".state"))
    end

    def self.read(file)
      found = YAML.safe_load(File.read(file)) || {}
      raise SettingsError, "#{file}: a list of NAME: VALUE is wanted" unless found.is_a?(Hash)
      found
    rescue Psych::Exception => error
      raise SettingsError, "#{file}: no YAML: #{error.message}"
    end

    def initialize(values, secrets_folder = "")
      @secrets_folder = secrets_folder
      unknown = values.keys.map(&:to_s) - DEFAULTS.keys
      refuse unknown.first, "is no setting; there are #{DEFAULTS.keys.join(', ')}" unless unknown.empty?
      @values = DEFAULTS.merge(values)
      NUMBERS.each { |name, range| @values[name] = number(name, range) }
      check_words
      check_numbers
      check_ranges
      check_addresses
    end

    def machines
      (1..nodes).map do |index|
        role = index == 1 ? "first" : index <= control_planes ? "control-plane" : "worker"
        Machine.new("n#{index}", address_of(index), role)
      end
    end

    def netmask
      IPAddr.new("255.255.255.255").mask(prefix_of("network")).to_s
    end

    # What provision/cluster is told about a machine.
    def environment(machine)
      secrets = Secrets.load(@secrets_folder)
      {
        "NODE_NAME" => machine.name, "NODE_ADDRESS" => machine.address, "ROLE" => machine.role,
        "FIRST_ADDRESS" => address_of(1), "POD_CIDR" => pod_cidr, "SERVICE_CIDR" => service_cidr, "TIMERS" => timers,
        "LOAD_BALANCER_POOL" => load_balancer_pool, "TOKEN" => secrets.token, "CA_HASH" => secrets.authority_hash,
        "CERTIFICATE_KEY" => machine.role != "worker" && control_planes > 1 ? secrets.certificate_key : "",
        "CA_CERTIFICATE" => machine.role == "first" ? secrets.authority : "",
        "CA_KEY" => machine.role == "first" ? secrets.authority_key : "",
      }
    end

    def pool
      range_ends(range("load_balancer_pool"))
    end

    private

    def refuse(name, why)
      raise SettingsError, "#{name}: #{@values ? @values[name].inspect + ' ' : ''}#{why}"
    end

    def number(name, range)
      value = Integer(@values[name].to_s, exception: false)
      refuse name, "is no whole number from #{range.begin} to #{range.end}" unless value && range.cover?(value)
      value
    end

    def range(name)
      text = @values[name].to_s
      found = IPAddr.new(text)
      refuse name, "is no address range; write it as 10.244.0.0/16" unless text.include?("/")
      refuse name, "has bits beyond its length; the range is #{found}/#{prefix_of(name)}" if found.to_s != text.split("/")[0]
      found
    rescue IPAddr::Error
      refuse name, "is no address range; write it as 10.244.0.0/16"
    end

    def prefix_of(name)
      @values[name].to_s.split("/")[1].to_i
    end

    def range_ends(found)
      ends = found.to_range
      [ends.begin, ends.end]
    end

    def check_words
      refuse "provider", "is none of virtualbox, libvirt (or empty, for Vagrant's choice)" unless PROVIDERS.include?(provider)
      refuse "timers", "is none of #{TIMERS.join(', ')}" unless TIMERS.include?(timers)
      refuse "box", "is no name of a box" unless box.is_a?(String) && box.match?(%r{\A[\w.-]+(/[\w.-]+)?\z})
    end

    def check_numbers
      refuse "control_planes", "must be 1 or 3: two agree no better than one" if control_planes == 2
      refuse "control_planes", "is more than nodes (#{nodes})" if control_planes > nodes
    end

    def check_ranges
      found = %w[network pod_cidr service_cidr].to_h { |name| [name, range(name)] }
      refuse "network", "must be an IPv4 range" unless found["network"].ipv4?
      found.keys.combination(2) do |one, other|
        refuse one, "overlaps #{other} #{@values[other]}; choose ranges apart" if overlap?(found[one], found[other])
      end
      refuse "pod_cidr", "holds a /24 for fewer than #{nodes} nodes" if pods_max(found["pod_cidr"]) < nodes
      if overlap?(found["network"], LIBVIRT_RANGE) && provider != "virtualbox"
        refuse "network", "overlaps 192.168.121.0/24, by which vagrant-libvirt reaches the machines"
      end
      return unless provider == "virtualbox" && !VIRTUALBOX_RANGE.include?(found["network"])
      refuse "network", "is refused by VirtualBox, which allows 192.168.56.0/21; see /etc/vbox/networks.conf"
    end

    def overlap?(one, other)
      one.family == other.family && (one.include?(other) || other.include?(one))
    end

    def pods_max(found)
      found.ipv4? ? 2**[24 - prefix_of("pod_cidr"), -1].max : 2**16
    end

    def check_addresses
      network = range("network")
      last = range_ends(network)[1]
      used = machines.map { |machine| IPAddr.new(machine.address) }
      beyond = used.find { |one| !network.include?(one) || one.to_i >= last.to_i }
      refuse "network", "has no address #{beyond} for the last of #{nodes} nodes from .#{first_address} on" if beyond
      first, final = pool
      refuse "load_balancer_pool", "is not in network #{@values['network']}" unless [first, final].all? { |one| network.include?(one) }
      taken = used.find { |one| one.to_i.between?(first.to_i, final.to_i) }
      refuse "load_balancer_pool", "holds the address #{taken} of a node" if taken
    end

    def address_of(index)
      IPAddr.new(range("network").to_i + first_address + index - 1, Socket::AF_INET).to_s
    end
  end

  # What machines prove themselves with; made at the first start, kept in a folder that nobody else may read. The cluster's
  # authority is made here too, so that each machine can be told the hash by which it knows the others.
  class Secrets
    NAMES = %w[token certificate_key authority authority_key authority_hash].freeze
    NAMES.each { |name| define_method(name) { @values.fetch(name) } }

    def self.load(folder)
      path = File.join(folder, "secrets.yaml")
      unless File.exist?(path)
        Dir.mkdir(folder, 0o700) unless Dir.exist?(folder)
        File.open(path, File::WRONLY | File::CREAT | File::EXCL, 0o600) { |file| file.write(YAML.dump(make)) }
      end
      new(YAML.safe_load(File.read(path)))
    rescue Errno::EEXIST
      retry
    end

    def self.make
      key = OpenSSL::PKey::EC.generate("prime256v1")
      {
        "token" => "#{SecureRandom.hex(3)}.#{SecureRandom.hex(8)}", "certificate_key" => SecureRandom.hex(32),
        "authority" => [authority(key).to_pem].pack("m0"), "authority_key" => [key.private_to_pem].pack("m0"),
        "authority_hash" => "sha256:#{Digest::SHA256.hexdigest(key.public_to_der)}",
      }
    end

    def self.authority(key)
      made = OpenSSL::X509::Certificate.new
      made.version = 2
      made.serial = OpenSSL::BN.rand(120)
      made.subject = made.issuer = OpenSSL::X509::Name.parse("/CN=kubernetes")
      made.public_key = key
      made.not_before = Time.now - 300
      made.not_after = Time.now + 3650 * 86_400
      extensions = OpenSSL::X509::ExtensionFactory.new(made, made)
      made.add_extension(extensions.create_extension("basicConstraints", "CA:TRUE", true))
      made.add_extension(extensions.create_extension("keyUsage", "digitalSignature,keyCertSign,cRLSign", true))
      made.add_extension(extensions.create_extension("subjectKeyIdentifier", "hash"))
      made.sign(key, OpenSSL::Digest.new("SHA256"))
    end

    def initialize(values)
      @values = values
    end
  end
end

if $PROGRAM_NAME == __FILE__
  begin
    settings = Raftsman::Settings.load(ARGV[0] || File.join(File.dirname(__dir__), "cluster.yaml"), ENV)
    settings.machines.each { |machine| puts "#{machine.name}\t#{machine.address}\t#{machine.role}" }
  rescue Raftsman::SettingsError => error
    abort "raftsman: #{error.message}"
  end
end
